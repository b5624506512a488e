import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** The JDK's client as it is by default: it prefers HTTP/2 and so offers an upgrade. Prints the answer of /embed. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String body = "{\"inputs\": " + System.getenv("TEXTS") + "}";
        for (int turn = 0; turn < 2; turn++) { // the second one over the connection that is kept
            HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("URL") + "/embed"))
                .header("Content-Type", "application/json; charset=UTF-8")
                .header("Authorization", "Bearer " + System.getenv("KEY"))
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            if (response.statusCode() != 200) {
                throw new IllegalStateException(response.statusCode() + " " + response.body());
            }
            if (turn == 1) {
                System.out.println(response.body());
            }
        }
    }
}
